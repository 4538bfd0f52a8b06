"""The activations of features on the same tokens: codes of SAEs, and similarities that are computed from them."""

from saematch.activations.codes import Codes
from saematch.activations.encoding import encode_layers
from saematch.activations.fitting import procrustes
from saematch.activations.similarities import Similarities, check_activity_metric

__all__ = ["Codes", "Similarities", "check_activity_metric", "encode_layers", "procrustes"]
