"""How near a step comes to the time that its memory traffic alone would take."""

NOMINAL = {  # bytes per second of one device, by JAX's name of it; its maker's figures
    "NVIDIA A100-SXM4-80GB": 2.039e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H200": 4.8e12,
}


def traffic(moved: float, seconds: float, device: str) -> dict[str, float]:
    """`gigabytes` and `gigabytes_per_second` of a call that moves so many bytes in so many seconds.

    Where the device is known, `nominal_gigabytes_per_second` and `share_of_nominal` too: the time
    that the bytes take at best, of the time that they took. XLA counts what each fusion reads and
    writes and a loop's body once; what caches hold it cannot know.
    """
    found = {"gigabytes": moved / 1e9, "gigabytes_per_second": moved / seconds / 1e9}
    if device not in NOMINAL:
        return found
    nominal = NOMINAL[device]
    share = moved / nominal / seconds
    return found | {"nominal_gigabytes_per_second": nominal / 1e9, "share_of_nominal": share}
