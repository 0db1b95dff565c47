"""Tests of proxy.calculator."""
