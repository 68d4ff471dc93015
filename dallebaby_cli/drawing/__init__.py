"""From a trained model and a prompt to pictures."""
