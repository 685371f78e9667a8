"""A batch's ``metadata`` at OpenAI: its limits, and the key that Batchflow sets.

https://developers.openai.com/api/reference/resources/batches/methods/create
"""

#: Holds the job id, by which a search finds the batch of a job.
JOB_KEY = "batchflow_job"
#: The limit on key-value pairs, Batchflow's own included.
MAX_PAIRS = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512
