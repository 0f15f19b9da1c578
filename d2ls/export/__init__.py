"""Trained networks in other forms: safetensors, model folders, ONNX, torch.export, and their metadata for maps.

Nothing is imported here: `d2ls.export.onnx_model` runs an exported model without torch.
"""
