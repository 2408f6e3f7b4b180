"""Contestants of `hemofed bench rounds` on other frameworks, each run by an interpreter of its own.

Nothing here may import what hemofed depends on: only torch, numpy, psutil, and the framework.
"""
