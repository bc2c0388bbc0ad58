"""Tests of reading data."""
