"""Every name that Batchflow uses in Redis.

The functions give names without the prefix (``BATCHFLOW_KEY_PREFIX``, default ``batchflow``);
the store puts it before them with :func:`full`. Celery's own keys are not among them, except
that its queues are named here.

====================  ======  =========================================  ======================
name                  type    what                                       goes away
====================  ======  =========================================  ======================
``job:<id>``          HASH    the job's record, see ``jobs.Job``         after the retention time
``due``               ZSET    live job id -> when it next needs          when the job ends
                              attention, epoch seconds
``recent``            ZSET    job id -> last change, epoch seconds       with the record
``counts``            HASH    ``<kind>:<state>`` -> number of jobs       never
``openai:<id>``       STRING  job id that made this batch or file        after OPENAI_TTL_S
``lease:<what>``      STRING  owner's token                              TTL, renewed by the owner
``backoff:<cred>``    HASH    ``failures`` in a row, ``until`` epoch s   TTL, or the next success
``waiting:<line>``    ZSET    job id -> when it was made; who waits      with the last one
                              for capacity, ``<credential>|<model>``
``born``              STRING  when the first job was recorded, epoch s   never
``events``            STREAM  every transition                           trimmed to MAX_EVENTS
``index``             ZSET    ``<facet> <kind> <state> <time> <job id>`` with the record
                              in the order of the letters; facets are
                              ``all``, ``org=<organization>`` and
                              ``execution=<name>``; the time is when it
                              ended, for a live job when it was made
``credentials``       HASH    credential -> which secret, in JSON        never
``lines``             SET     every ``waiting:<line>`` that there is     with its last job
``delivery:<id>``     STRING  a webhook that was taken                   after DELIVERY_TTL_S
``pushed:<cred>``     STRING  OpenAI sends webhooks for a credential     after PUSHED_TTL_S
``metrics``           HASH    ``<name>|<label>|<label>`` -> a counter    never
``pulse``             HASH    ``sweep``, ``poll``, ``webhook`` -> when   never
                              last, epoch s
``workers``           ZSET    ``<worker> <queue>,<queue>`` -> last       a day after the last
                              heartbeat, epoch s
====================  ======  =========================================  ======================
"""

#: How many transitions the events stream keeps, roughly.
MAX_EVENTS = 100_000
#: How long a batch leads to its job, in seconds: as long as OpenAI may keep the files it made.
OPENAI_TTL_S = 30 * 86_400

#: OpenAI sends a webhook again for 72 hours.
DELIVERY_TTL_S = 96 * 3_600
#: For so long after a webhook it is relied on that OpenAI sends them.
PUSHED_TTL_S = 6 * 3_600

DUE = "due"
RECENT = "recent"
COUNTS = "counts"
EVENTS = "events"
BORN = "born"
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
    """Which job has made an OpenAI batch or uploaded a file."""
    return f"openai:{openai_id}"


def lease(what: str) -> str:
    """Who is at work on something: ``<job id>``, ``poll:<credential>``, ``sweep``."""
    return f"lease:{what}"


def backoff(credential: str) -> str:
    """Until when nobody is to ask OpenAI with a credential, after failures."""
    return f"backoff:{credential}"


def waiting(line: str) -> str:
    """Who waits for capacity at OpenAI, in order."""
    return f"waiting:{line}"


def delivery(webhook_id: str) -> str:
    """A webhook, by the id that it keeps when it is sent again."""
    return f"delivery:{webhook_id}"


def pushed(credential: str) -> str:
    """Whether webhooks come for the batches of a credential."""
    return f"pushed:{credential}"


def full(prefix: str, name: str) -> str:
    """The name as Redis has it."""
    return f"{prefix}:{name}"
