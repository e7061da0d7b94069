"""The shop's only table."""

# mypy: allow-subclassing-any

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """An order that somebody placed."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return str(self.name)
