"""Networks for other programs: ONNX models, and weights under PyTorch's names."""

from gpubp.interchange.export import to_onnx
from gpubp.interchange.pipelines import register_with_skl2onnx
from gpubp.interchange.state_dict import from_state_dict, to_state_dict

__all__ = ["from_state_dict", "register_with_skl2onnx", "to_onnx", "to_state_dict"]
