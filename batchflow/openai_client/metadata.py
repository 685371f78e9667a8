"""A batch's metadata at OpenAI: its limits, and the pair that is ours.

https://developers.openai.com/api/reference/resources/batches/methods/create
"""

#: The key by which a batch is found again; its value is the job id.
JOB_KEY = "batchflow_job"
#: How many pairs OpenAI takes, ours included.
MAX_PAIRS = 16
#: How many characters a key and a value may have.
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512
