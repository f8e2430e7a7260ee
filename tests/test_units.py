"""Bandwidths and sizes as people write them: what is understood, what is refused, and how."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.errors import BadInput, shown
from mpls.units import (
    BandwidthRange,
    format_bytes,
    format_rate,
    parse_bandwidth,
    parse_bandwidths,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "low_Bps", "high_Bps"),
    [
        ("10MB", 10e6, 10e6),
        ("10-15MB", 10e6, 15e6),
        ("80Mbit", 10e6, 10e6),
        ("1.5MiB", 1.5 * 2**20, 1.5 * 2**20),
        ("12.5MB/s", 12.5e6, 12.5e6),
        (" 5-25 Mbit/s ", 625e3, 3.125e6),
        ("7kB", 7e3, 7e3),
        ("7KB", 7e3, 7e3),
        ("7KiB", 7168.0, 7168.0),
        ("1Gbit", 125e6, 125e6),
        ("8kbit", 1e3, 1e3),
        ("2GiB", 2.0**31, 2.0**31),
        ("512B", 512.0, 512.0),
        ("15-15MB", 15e6, 15e6),
    ],
)
def test_a_bandwidth_is_read_as_bytes_per_second(
    text: str, low_Bps: float, high_Bps: float
) -> None:
    assert parse_bandwidth(text) == BandwidthRange(low_Bps, high_Bps)


@pytest.mark.parametrize(
    "text",
    ["", " ", "10", "MB", "-10MB", "-5-10MB", "15-10MB", "0MB", "0-10MB", "nan", "nanMB", "infMB"]
    + ["10mb", "10Mb", "10MBps", "10 parsecs", "1e3MB", "10--15MB", "10-MB", "10-15-20MB", "1_0MB"]
    + ["10MB/h", "1.MB", ".5MB", "٣MB", "10MB\n10MB", "9" * 400 + "MB", "10MB,20MB", "5..25MB/5MB"],
)
def test_anything_else_is_refused_with_one_line_that_shows_good_ones(text: str) -> None:
    with pytest.raises(BadInput, match=r"good ones: 10MB, 10-15MB, 80Mbit, 1\.5MiB") as refusal:
        parse_bandwidth(text)
    assert shown(text) in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("10MB", "10MB"),
        ("5-10MB, 10-15MB", "5-10MB 10-15MB"),
        ("5..25MB/5MB", "5MB 10MB 15MB 20MB 25MB"),
        ("1..2MB/400kB", "1MB 1.4MB 1.8MB"),
        ("0.1..0.3MB/0.1MB,1GB", "100kB 200kB 300kB 1GB"),
    ],
)
def test_several_bandwidths_are_listed_or_stepped_through(text: str, specs: str) -> None:
    assert parse_bandwidths(text) == [parse_bandwidth(spec) for spec in specs.split()]


@pytest.mark.parametrize(
    "text", ["25..5MB/5MB", "5..25MB/0MB", "0..5MB/1MB", "1..9999MB/1MB", "5..25MB", "1MB,", ""]
)
def test_a_list_of_bandwidths_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="good one"):
        parse_bandwidths(text)


@given(st.floats(1e-3, 1e15), st.floats(1.0, 1e3))
def test_a_bandwidth_as_text_reads_back_to_the_last_bit(low_Bps: float, ratio: float) -> None:
    bandwidth = BandwidthRange(low_Bps, low_Bps * ratio)
    assert parse_bandwidth(str(bandwidth)) == bandwidth


@pytest.mark.parametrize("text", ["10-15MB", "12.5MB", "80kB", "1.25GB", "999B"])
def test_a_bandwidth_in_plain_units_keeps_its_words(text: str) -> None:
    assert str(parse_bandwidth(text)) == text


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("64KiB", 65_536), ("1.5MB", 1_500_000), ("1B", 1), ("8 Mbit", 10**6)]
)
def test_a_size_is_read_as_whole_bytes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "0B", "-1MB", "0.5B", "1MB/s", "1-2MB", "12", "9" * 400 + "B"]
)
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"good ones: 512B, 64KiB, 1\.5MB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (203_560, "203.6 kB"), (44.9e6, "44.9 MB"), (999_999, "1.0 MB")],
)
def test_sizes_for_people_are_short(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text


@given(st.floats(1.0, 1e12))
def test_a_rate_for_people_reads_back_within_its_digits(rate_Bps: float) -> None:
    read = parse_bandwidth(format_rate(rate_Bps))
    assert read.low_Bps == pytest.approx(rate_Bps, rel=0.5, abs=0.5)
    assert rate_Bps < 1e6 or read.low_Bps == pytest.approx(rate_Bps, rel=0.05)
