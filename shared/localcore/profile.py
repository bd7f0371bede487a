"""What differs between the two nuclei, as one table.

`CLASSIC` is the Java nucleus 2.x, from its documentation and source. `LITE` is Greengrass nucleus lite 2.6.0, as
measured. Where neither says anything, the stricter reading is modelled. None means no limit is known.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024

_PUBSUB = frozenset({"PublishToTopic", "SubscribeToTopic", "PublishToIoTCore", "SubscribeToIoTCore"})
_CONFIGURATION = frozenset({"GetConfiguration", "UpdateConfiguration", "SubscribeToConfigurationUpdate"})
_VALIDATION = frozenset({"SubscribeToValidateConfigurationUpdates", "SendConfigurationValidityReport"})


@dataclass(frozen=True, slots=True)
class Profile:
    """The limits and habits of one nucleus. Sizes are bytes, times seconds."""

    name: str
    version: str
    """GGC_VERSION of the components."""
    builtin: tuple[tuple[str, str], ...]
    """(name, version) of the AWS components that a deployment finds without a recipe."""

    # IPC connections
    operations: frozenset[str]
    """Everything else answers ServiceError."""
    max_frame: int
    """A larger frame closes the whole connection."""
    max_connections: int | None
    refuses_politely: bool
    """A wrong token is answered (classic), or the socket is just closed (lite)."""
    ends_unary: bool
    """A unary reply carries the flag that ends its stream."""
    error_details: bool
    """Errors carry `message`, which the SDK shows, and not only `_message`, which it does not."""
    tokens_survive_restart: bool

    # publish/subscribe
    max_subscriptions: int | None
    max_topic: int
    checks_topics: bool
    """Wildcards in a topic, malformed filters and other wrong arguments are InvalidArgumentsError (classic). Lite
    accepts the former two and answers ServiceError to the rest."""
    receive_modes: bool
    """RECEIVE_MESSAGES_FROM_OTHERS is honoured."""
    send_timeout: float | None
    """A subscriber that does not read blocks every caller this long per message, then loses it. None: it is queued."""
    json_publish_arena: int | None
    json_event_arena: int | None
    max_iot_message: int
    drops_large_iot_silently: bool

    # authorisation
    policy_arena: int | None
    """Policies of one component for one service that need more than this authorise nothing."""
    interpolates_policies: bool

    # configuration
    max_leaf: int | None
    max_children: int | None
    max_keys: int | None
    max_depth: int | None
    max_read: int | None
    ignores_key_case: bool
    retypes_leaf: bool
    """A merge may turn a leaf into a map or back."""
    stale_update_fails: bool
    timestamp_needs_fraction: bool
    """UpdateConfiguration refuses a timestamp that is written as an integer."""
    numbers_become_floats: bool
    """Numbers that a component writes with UpdateConfiguration come back as floats."""

    # recipes and processes
    yaml_scalars_are_strings: bool
    matches_ranges: bool
    """`~`, `^` and `||` in a version requirement mean something (classic)."""
    strict_recipe: bool
    """Recipe keys are case sensitive and any `{` in a script begins a variable."""
    restarts_on_configuration: bool
    """A deployment that has a configurationUpdate for a component installs and starts it again (lite), also where it
    changes nothing. Otherwise (classic) the component runs on and hears of the change."""
    installs_first: bool
    """All installs of a deployment end before any of its run scripts begins, and until then what ran before runs on
    beside them (lite). Otherwise each component is stopped, installed and run by itself."""
    installs_at_boot: bool
    """Install scripts are run at each start of the nucleus (classic)."""
    rolls_back: bool
    """A deployment that fails is taken back where its policy says so (classic)."""
    hard_states: frozenset[str]
    """In these states a component lets those that depend hard on it start and run. To systemd, which runs the
    components of lite, one that has ended well is as gone as any other."""
    clean_signals: frozenset[int]
    """Signals that end a component without that being an error."""
    restart_delay: float
    stop_grace: float
    error_window: float
    """This is how soon an error must follow the one before to count towards BROKEN."""
    errors_to_broken: int


CLASSIC = Profile(
    name="classic",
    version="2.14.0",
    builtin=(
        ("aws.greengrass.Nucleus", "2.14.0"),
        ("aws.greengrass.StreamManager", "2.2.0"),
        ("aws.greengrass.SecretManager", "2.1.8"),
        ("aws.greengrass.TokenExchangeService", "2.0.3"),
    ),
    operations=_PUBSUB | _CONFIGURATION | _VALIDATION | {"UpdateState", "GetSecretValue"},
    max_frame=24 * MIB,
    max_connections=None,
    refuses_politely=True,
    ends_unary=True,
    error_details=True,
    tokens_survive_restart=True,
    max_subscriptions=None,
    max_topic=65_535,
    checks_topics=True,
    receive_modes=True,
    send_timeout=None,
    json_publish_arena=None,
    json_event_arena=None,
    max_iot_message=128 * 1024,
    drops_large_iot_silently=False,
    policy_arena=None,
    interpolates_policies=False,
    max_leaf=None,
    max_children=None,
    max_keys=None,
    max_depth=None,
    max_read=None,
    ignores_key_case=True,
    retypes_leaf=True,
    stale_update_fails=True,
    timestamp_needs_fraction=False,
    numbers_become_floats=True,
    yaml_scalars_are_strings=False,
    matches_ranges=True,
    strict_recipe=False,
    restarts_on_configuration=False,
    installs_first=False,
    installs_at_boot=True,
    rolls_back=True,
    hard_states=frozenset({"RUNNING", "FINISHED"}),
    clean_signals=frozenset(),
    restart_delay=0.1,
    stop_grace=5.0,
    error_window=3600.0,
    errors_to_broken=3,
)

LITE = Profile(
    name="lite",
    version="2.6.0",
    builtin=(
        ("aws.greengrass.Nucleus", "2.6.0"),
        ("aws.greengrass.NucleusLite", "2.6.0"),
        ("aws.greengrass.StreamManager", "2.2.0"),
        ("aws.greengrass.TokenExchangeService", "2.0.3"),
    ),
    operations=_PUBSUB | _CONFIGURATION | {"UpdateState"},
    max_frame=10_012,  # 10,000 after the 12 bytes of lengths and their checksum
    max_connections=50,
    refuses_politely=False,
    ends_unary=False,
    error_details=False,
    tokens_survive_restart=False,
    max_subscriptions=99,
    max_topic=256,
    checks_topics=False,
    receive_modes=False,
    send_timeout=5.0,
    json_publish_arena=2_140,
    json_event_arena=550,
    max_iot_message=5_000,
    drops_large_iot_silently=True,
    policy_arena=4_096,
    interpolates_policies=True,
    max_leaf=1_024,
    max_children=64,
    max_keys=256,
    max_depth=12,
    max_read=9_000,
    ignores_key_case=False,
    retypes_leaf=False,
    stale_update_fails=False,
    timestamp_needs_fraction=True,
    numbers_become_floats=False,
    yaml_scalars_are_strings=True,
    matches_ranges=False,
    strict_recipe=True,
    restarts_on_configuration=True,
    installs_first=True,
    installs_at_boot=False,
    rolls_back=False,
    hard_states=frozenset({"RUNNING"}),
    clean_signals=frozenset({1, 2, 13, 15}),
    restart_delay=1.0,
    stop_grace=5.0,
    error_window=3600.0,
    errors_to_broken=3,
)

PROFILES = {profile.name: profile for profile in (CLASSIC, LITE)}
