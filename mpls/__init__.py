"""Decentralised federated learning without a server: pull chosen layers from chosen peers."""

__version__ = "0.1.0"
