"""Reading data sets, and turning raw rows into what a network takes and back."""

from gpubp.data.prepare import PreparedData, decode, encode, prepare
from gpubp.data.readers import read
from gpubp.data.source import RawData
from gpubp.data.streamed import LargeData, open_large, prepare_streamed

__all__ = [
    "LargeData",
    "PreparedData",
    "RawData",
    "decode",
    "encode",
    "open_large",
    "prepare",
    "prepare_streamed",
    "read",
]
