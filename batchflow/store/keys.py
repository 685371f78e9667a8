"""All names that Batchflow uses in Redis, besides those of Celery.

The functions return names without the prefix (``BATCHFLOW_KEY_PREFIX``, by default ``batchflow``);
the store adds it with :func:`full`.

====================  ======  ==========================================  ======================
name                  type    content                                     deleted
====================  ======  ==========================================  ======================
``job:<id>``          HASH    the job's record, see ``jobs.Job``          after the retention time
``due``               ZSET    live job id -> when it needs attention      when the job ends
                              next, epoch seconds
``recent``            ZSET    job id -> last change, epoch seconds        with the record
``counts``            HASH    ``<kind>:<state>`` -> number of jobs        never
``uncollected``       ZSET    job that ended -> when, epoch seconds,      when Flyte has collected
                              until Flyte has asked for its result        it, or with the record
``unreadable``        SET     live job whose record the workers'          when it is readable, has
                              version can't read                          ended, or is gone
``openai:<id>``       STRING  the job of a batch or an uploaded file      after OPENAI_TTL_S
``lease:<name>``      STRING  the holder's token                          TTL, renewed by the holder
``backoff:<cred>``    HASH    ``failures`` in a row, ``until`` epoch s,   TTL, or the next success
                              ``message``, ``waiting_for``
``search:<list>``     HASH    a search of ``batches:<cred>`` or           after SEARCH_TTL_S
                              ``files:<cred>``: ``started_at`` and
                              ``not_before``, epoch s; ``after``, the
                              last id that it has passed; ``done``;
                              ``waits:<job id>`` of each job that
                              waits for it -> empty, or what the job
                              takes if there is nothing better
``waiting:<queue>``   ZSET    a quota queue, ``<credential>|<model>``:    with its last job
                              job id -> when the job was created
``born``              STRING  when the first job was recorded, epoch s    never
``server``            HASH    ``run_id`` of the Redis server, and           never
                              ``changed_at``: when another one was last
                              noticed, epoch s
``events``            STREAM  every transition                            trimmed to MAX_EVENTS
``index``             ZSET    ``<scope> <kind> <state> <time> <job id>``  with the record
                              in lexical order; the scopes are ``all``,
                              ``org=<organization>`` and
                              ``execution=<name>``; the time is when the
                              job ended, or was created if it is live
``credentials``       HASH    credential -> its secret's name, in JSON    never
``lines``             SET     the names of the quota queues               with their last job
``delivery:<id>``     STRING  a webhook that was accepted                 after DELIVERY_TTL_S
``pushed:<cred>``     STRING  webhooks arrive for a credential            after PUSHED_TTL_S
``metrics``           HASH    ``<name>|<label>|<label>`` -> a counter     never
``pulse``             HASH    ``sweep``, ``poll``, ``webhook``,           never
                              ``due_check`` -> when it last happened,
                              epoch s
``workers``           ZSET    ``<worker> <queue>,<queue>`` -> last        a day after the last one
                              heartbeat, epoch s
====================  ======  ==========================================  ======================
"""

#: The length of the events stream, approximately.
MAX_EVENTS = 100_000
#: How long a batch's id is mapped to its job, in seconds: as long as OpenAI may keep its files.
OPENAI_TTL_S = 30 * 86_400

#: How long the state of a search is kept after it was last used.
SEARCH_TTL_S = 86_400

#: OpenAI repeats a webhook for 72 hours.
DELIVERY_TTL_S = 96 * 3_600
#: How long after a webhook further ones are expected.
PUSHED_TTL_S = 6 * 3_600

DUE = "due"
RECENT = "recent"
COUNTS = "counts"
UNCOLLECTED = "uncollected"
UNREADABLE = "unreadable"
EVENTS = "events"
BORN = "born"
SERVER = "server"
INDEX = "index"
CREDENTIALS = "credentials"
LINES = "lines"
METRICS = "metrics"
PULSE = "pulse"
WORKERS = "workers"


def job(job_id: str) -> str:
    """The record of a job."""
    return f"job:{job_id}"


def openai(openai_id: str) -> str:
    """The job of an OpenAI batch or uploaded file."""
    return f"openai:{openai_id}"


def lease(name: str) -> str:
    """The holder of a lease: of a job (its id), ``poll:<credential>``, ``sweep``,
    ``search:<list>``."""
    return f"lease:{name}"


def backoff(credential: str) -> str:
    """The pause of a credential's calls."""
    return f"backoff:{credential}"


def search(listed: str) -> str:
    """The search of a list: ``batches:<credential>`` or ``files:<credential>``."""
    return f"search:{listed}"


def waiting(queue: str) -> str:
    """A quota queue."""
    return f"waiting:{queue}"


def delivery(webhook_id: str) -> str:
    """A webhook, by the id that it keeps when it is repeated."""
    return f"delivery:{webhook_id}"


def pushed(credential: str) -> str:
    """Whether webhooks arrive for the batches of a credential."""
    return f"pushed:{credential}"


def full(prefix: str, name: str) -> str:
    """The name in Redis."""
    return f"{prefix}:{name}"
