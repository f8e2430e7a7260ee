"""What a value in a cluster file may look like: the types that the tables are made of.

Each check raises ValueError with what is allowed; `complaints.py` adds file, key and value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from mpls.errors import BadInput
from mpls.units import GOOD_BANDWIDTHS, BandwidthRange, parse_bandwidth

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"(?!.*[.-]\.)[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")


def one_of(allowed: Sequence[str], import_path: str = "") -> AfterValidator:
    """Only these words; and, where `import_path` shows one, also a user's own class or function."""

    def check(value: str) -> str:
        if value in allowed or (import_path and IMPORT_PATH.fullmatch(value)):
            return value
        own = f", or your own as {import_path}" if import_path else ""
        raise ValueError(f"must be one of {', '.join(allowed)}{own}")

    return AfterValidator(check)


def matching(pattern: re.Pattern[str], allowed: str) -> AfterValidator:
    """Only text that is this pattern from end to end; `allowed` says it in words."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"must be {allowed}")
        return value

    return AfterValidator(check)


def _bandwidth(value: object) -> BandwidthRange:
    if isinstance(value, BandwidthRange):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be text such as {GOOD_BANDWIDTHS}")
    try:
        return parse_bandwidth(value)
    except BadInput as error:
        raise ValueError(str(error)) from None


def _bandwidth_or_none(value: object) -> BandwidthRange | None:
    return None if value is None or value == "" else _bandwidth(value)


def single_rate(rate: BandwidthRange | None) -> BandwidthRange | None:
    """Refuses a range where nothing is drawn from it."""
    if rate is not None and rate.low_Bps != rate.high_Bps:
        raise ValueError("must be one rate, not a range")
    return rate


def _address(value: str) -> str:
    host, port = split_address(value)
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError("must be host:port with a port from 0 to 65535")
    if not host:
        raise ValueError("must be host:port; the host is empty")
    if not _is_host(host):
        raise ValueError("must be host:port with a host name, an IPv4 or an [IPv6] address")
    ip = ip_of(host)
    if ip is not None and ip.is_unspecified:
        raise ValueError("must be an address that peers can connect to")
    return value


def split_address(address: str) -> tuple[str, str]:
    """Host and port of `host:port`; an IPv6 host keeps its brackets."""
    host, _, port = address.rpartition(":")
    return host, port


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that this host is written as; None for a name."""
    try:
        if host.startswith("[") and host.endswith("]"):
            return ipaddress.IPv6Address(host[1:-1])
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    # What ends in a number is meant as an IPv4 address: 10.0.0.300 is a typing error, no name.
    looks_numeric = host.rpartition(".")[2].isdigit()
    return ip_of(host) is not None or (not looks_numeric and _HOST.fullmatch(host) is not None)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable text")
    return value


Name = Annotated[
    str, matching(_NAME, "1 to 64 letters, digits, dots, dashes or underscores, no dash first")
]
Address = Annotated[str, AfterValidator(_address)]
Text = Annotated[str, AfterValidator(_printable)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=2**31)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0)]
SecondsOrZero = Annotated[float, Field(ge=0.0)]
Rate = Annotated[BandwidthRange, BeforeValidator(_bandwidth), PlainSerializer(str)]
"""A bandwidth as `mpls.units` reads it."""
RateOrNone = Annotated[
    BandwidthRange | None,
    BeforeValidator(_bandwidth_or_none),
    PlainSerializer(lambda rate: str(rate) if rate else ""),
]
"""As Rate; written "", and None to us, where there is no limit."""
