"""Weights from any publisher: located, downloaded, read safely and checked tensor by tensor."""
