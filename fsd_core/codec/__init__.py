"""Encodes blocks of activations as bytes and decodes them again, without loss.

`encode` encodes a block on its own (staged inputs, outputs). Between layers, an `Encoder` and a `Decoder` have the state of one
micro-batch: which samples are live changes little from one step of a pair of ranks to the next, so only the difference travels. The
first block of a micro-batch has the whole set, so a micro-batch can be sent again on its own. `encode_tensors` encodes the named tensors of
ONNX models instead.
"""

from fsd_core.codec.message import CODEC, Decoder, Encoder, Packed, decode, encode, pack
from fsd_core.codec.named import decode_tensors, encode_tensors
from fsd_core.codec.parts import CodecError

__all__ = ["CODEC", "CodecError", "Decoder", "Encoder", "Packed", "decode", "decode_tensors", "encode", "encode_tensors", "pack"]
