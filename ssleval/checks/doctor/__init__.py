"""Whether a checkpoint is wired correctly, on one page: a finding per check, with its evidence."""

from ssleval.checks.doctor.examine import diagnose, examine
from ssleval.checks.doctor.finding import Finding

__all__ = ["Finding", "diagnose", "examine"]
