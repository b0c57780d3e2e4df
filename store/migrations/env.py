"""Alembic's entry: it runs this file for every command, on the connection that `store.migrations` opened."""

from alembic import context

from store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters most things by rebuilding the table
)
context.run_migrations()
