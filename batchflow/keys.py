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
====================  ======  =========================================  ======================
"""

#: How many transitions the events stream keeps, roughly.
MAX_EVENTS = 100_000
#: How long a batch leads to its job, in seconds: as long as OpenAI may keep the files it made.
OPENAI_TTL_S = 30 * 86_400

DUE = "due"
RECENT = "recent"
COUNTS = "counts"
EVENTS = "events"
BORN = "born"


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


def full(prefix: str, name: str) -> str:
    """The name as Redis has it."""
    return f"{prefix}:{name}"


def queue(prefix: str, name: str) -> str:
    """A Celery queue, which with the Redis transport is a LIST of that name."""
    return f"{prefix}.{name}"
