"""How good a model is: metrics, scores on the hold-out pictures, agreement with the prompt."""
