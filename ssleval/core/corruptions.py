"""The common corruptions of ImageNet-C."""

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
"""The 15 that are scored, in the order of the paper; the four extra ones of the release are for tuning.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261.
"""

SEVERITIES = (1, 2, 3, 4, 5)
