"""Whether a checkpoint is wired correctly, on one page: a finding per check, with its evidence."""

from ssleval.doctor.examine import diagnose, examine
from ssleval.doctor.finding import Finding

__all__ = ["Finding", "diagnose", "examine"]
