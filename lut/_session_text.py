"""What is said of a session's noise and speed; a figure that its visits were too few to tell is not known, never 0."""

from __future__ import annotations

from lut._records import Preflight, Session, Setting

__all__ = ["UNKNOWN", "knows_noise_floor", "knows_speed", "noise_floor_text", "spread_line"]

UNKNOWN = "not known"
# One sentinel says nothing of how they disagree.
LEAST_SENTINELS = 2


def knows_noise_floor(preflight: Preflight) -> bool:
    """Return whether there were visits enough to tell the noise floor; 0 stands in the file where there were not."""
    return preflight.noise_floor_visits > 0 and preflight.noise_floor > 0


def noise_floor_text(preflight: Preflight, digits: int = 1) -> str:
    """Return the noise floor as ``±1.2%``, or that it is not known."""
    return f"±{preflight.noise_floor:.{digits}%}" if knows_noise_floor(preflight) else UNKNOWN


def knows_speed(session: Session) -> bool:
    """Return whether each sentinel was visited often enough for an interval: what the machine's speed is told by."""
    visits = [len(sentinel.at_s) for sentinel in session.sentinels]
    return len(visits) >= LEAST_SENTINELS and min(visits) >= session.protocol.first_look


def spread_line(session: Session, setting: Setting) -> str | None:
    """Return how far another run's latencies may lie, and how far the machine's speed drifted during this one.

    ``None`` of Core ML's: a phone's timings come as they are.
    """
    if setting.target == "coreml":
        return None
    spread, known = session.spread, knows_speed(session)
    scale = f"±{spread.scale:.1%}" if known else UNKNOWN
    # Of one process, or where the visits' own noise hid it, nothing is said of how processes differ.
    process = f"±{spread.process:.1%}" if session.processes > 1 and spread.process > 0 else UNKNOWN
    chains = f", layers that stood in chains only ±{spread.context:.1%}" if spread.context > 0 else ""
    # A target that runs no sentinels has its drift from its layers alone.
    drifted = spread.common_drift > 0 and (known or not session.sentinels)
    drift = f"{spread.common_drift:.1%}, removed" if drifted else UNKNOWN
    return f"between runs: scale {scale}, process {process}{chains} (1 σ); machine's drift during the run {drift}"
