"""Compresses a member's update, and refuses every byte string that is not exactly one: f32, f16, int8, int4, topk.

Pure: bytes and tensors only.
"""

from p2p_llm_forge.codec.codec import decode, encode, encoded_bytes
from p2p_llm_forge.codec.update import Update

__all__ = ["Update", "decode", "encode", "encoded_bytes"]
