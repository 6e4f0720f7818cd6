"""Tests of the package `peer`."""
