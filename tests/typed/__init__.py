"""Typed requests and services."""
