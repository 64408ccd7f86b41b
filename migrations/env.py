"""Alembic environment: the connection is given by `adaptd.db.upgrade`; there is no alembic.ini."""

from alembic import context

from adaptd.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
