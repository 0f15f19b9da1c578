"""Settings of the property tests here."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # times say nothing on a machine that is shared
settings.load_profile("no deadline")
