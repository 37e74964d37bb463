"""Importers: adapters as other tools write them → bundles. One module per tool; each is loaded when it is asked for."""
