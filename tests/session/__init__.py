"""Tests of proxy.session."""
