"""x"""

import click


@click.command()
def ablate() -> None:
    """x"""
