"""Reading data sets, and turning raw rows into what a network takes and back."""

from gpubp.data.prepare import PreparedData, decode, encode, prepare
from gpubp.data.readers import read
from gpubp.data.source import RawData

__all__ = ["RawData", "PreparedData", "decode", "encode", "prepare", "read"]
