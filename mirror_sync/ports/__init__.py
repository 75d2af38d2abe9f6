"""The promises between rooms, a module for each subject.

Adapters implement these; actions hold nothing else.  A docstring here is a contract,
and ``tests/contract`` holds the suite that every implementation passes.  All methods
may be called from any thread unless they say otherwise.
"""

from mirror_sync.ports.arriving import Arrival, Arrivals
from mirror_sync.ports.cloning import CloneOrder, ClonePlace, CloneReport, Credential, Credentials, Draft, Standing
from mirror_sync.ports.files import FileView, PublishedFiles, Revision
from mirror_sync.ports.filling import BlobPart, Filling, Gap, Goal, Stretch, Taken
from mirror_sync.ports.objects import Incomplete, ObjectStore
from mirror_sync.ports.repository import (
    GitRepositories,
    GitRepository,
    Inspection,
    PublishRequest,
    Recovery,
    Serving,
    View,
)
from mirror_sync.ports.state import Keep, MirrorFilter, MirrorPage, StateStore, Totals
from mirror_sync.ports.telemetry import Telemetry
from mirror_sync.ports.times import Clock, Parallel, Waker
from mirror_sync.ports.upstream import (
    Abilities,
    BlobBody,
    FetchRequest,
    GitAccess,
    LfsAction,
    LfsAnswer,
    LfsBody,
    Upstream,
)

__all__ = [
    "Abilities",
    "Arrival",
    "Arrivals",
    "BlobBody",
    "BlobPart",
    "Clock",
    "CloneOrder",
    "ClonePlace",
    "CloneReport",
    "Credential",
    "Credentials",
    "Draft",
    "FetchRequest",
    "FileView",
    "Filling",
    "Gap",
    "GitAccess",
    "GitRepositories",
    "GitRepository",
    "Goal",
    "Incomplete",
    "Inspection",
    "Keep",
    "LfsAction",
    "LfsAnswer",
    "LfsBody",
    "MirrorFilter",
    "MirrorPage",
    "ObjectStore",
    "Parallel",
    "PublishRequest",
    "PublishedFiles",
    "Recovery",
    "Revision",
    "Serving",
    "Standing",
    "StateStore",
    "Stretch",
    "Taken",
    "Telemetry",
    "Totals",
    "Upstream",
    "View",
    "Waker",
]
