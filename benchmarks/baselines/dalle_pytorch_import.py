"""DALLE-pytorch without those of its dependencies that do not build and are not used here."""

import sys
import types

for missing in ("taming", "taming.models", "taming.models.vqgan", "youtokentome"):
    sys.modules[missing] = types.ModuleType(missing)
sys.modules["taming.models.vqgan"].VQModel = sys.modules["taming.models.vqgan"].GumbelVQ = object

from dalle_pytorch import DALLE as DALLE  # noqa: E402
from dalle_pytorch import DiscreteVAE as DiscreteVAE  # noqa: E402
