"""The tuned constants of the workers, in one object that tests can vary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """How often, how long and how many. The benchmarks measure the defaults."""

    # When a batch is polled next; see `schedule`.

    #: A batch is polled again after this share of its age ...
    age_share: float = 0.1
    #: ... but at least once in this many poll intervals.
    longest_intervals: int = 8
    #: A batch that OpenAI has not started is polled within this time: it may fail before its
    #: webhook finds the job's record.
    longest_until_started_s: float = 30.0
    #: The shortest and the longest wait, in poll intervals, while webhooks report the end.
    shortest_intervals_with_webhooks: int = 4
    longest_intervals_with_webhooks: int = 40

    # Which call a scan makes next; see `polling.scan`.

    #: A page of the list is worth its call if it shows at least this many due batches.
    worthwhile_batches_per_page: int = 2
    #: A scan may ask for this many pages that are not worth their call ...
    wasted_pages: int = 2
    #: ... and for another one each time it has made this many calls.
    calls_per_wasted_page: int = 8
    #: A scan that takes longer continues in another message, so that its worker is free again.
    longest_scan_s: float = 5.0

    # Polls and sweeps; see `polling.poll` and `polling.sweep`.

    #: OpenAI may not know a batch for this long after creating it.
    unknown_batch_grace_s: float = 600.0
    #: Due jobs wait this long while another poll uses their credential ...
    busy_credential_s: float = 1.0
    #: ... or this long for each of them, if that is longer.
    busy_credential_per_job_s: float = 0.01
    #: Jobs that a sweep claims at once, and that one poll message names at most.
    claimed_jobs: int = 1_000
    #: With more due jobs of a credential, each is held this much longer: their poll takes time.
    hold_per_job_s: float = 0.01
    #: A job whose step was enqueued becomes due again after this share of its age ...
    enqueued_again_age_share: float = 0.5
    #: ... but within this time.
    longest_until_enqueued_again_s: float = 600.0
    #: The due times of all live jobs are checked this often ...
    due_check_interval_s: float = 3_600.0
    #: ... for this many jobs at once.
    checked_jobs: int = 1_000
    #: A job whose record this version can't read is due again after this time ...
    unreadable_again_s: float = 3_600.0
    #: ... and fails this long after its creation, if it is not known when its batch expires.
    unreadable_lifetime_s: float = 3 * 86_400.0
    #: Records deleted by one sweep, at most.
    purged_jobs: int = 500

    # Searches for what a job may have at OpenAI already; see `search`.

    #: A search that takes longer continues in another step, so that its worker is free again.
    longest_search_s: float = 20.0
    #: A job looks this much later whether the search that it waits for has ended ...
    busy_search_s: float = 5.0
    #: ... or this much for each job that waits, if that is longer. The end wakes them all.
    busy_search_per_job_s: float = 0.02

    # What OpenAI reports late; see `observation`.

    #: A batch that ended may lack the output file that its counts imply for this long.
    output_file_lag_s: float = 600.0
    #: The same for its error file. Other servers write failed requests into the output file.
    error_file_lag_s: float = 15.0

    # Waiting and giving up; see `quota` and `steps.runner`.

    #: A job in a quota queue tries again after this many poll intervals if no batch ends before.
    quota_retry_intervals: int = 20
    #: A job is given up when its step has failed this many times in a row.
    max_failures: int = 8
    #: A job without a batch is given up when this many steps have started and never returned.
    max_starts: int = 8
    #: The wait after a failed step, doubled each time up to the longest.
    first_retry_s: float = 2.0
    longest_retry_s: float = 300.0
