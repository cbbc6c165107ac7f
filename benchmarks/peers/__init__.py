"""Other queues, each as one worker process with a job that only notes when it began.

They run in an environment of their own (`requirements.txt`): their pins contradict the product's.
Every module is a program: `MODULE worker PORT FILE` or `MODULE enqueue PORT COUNT`.
"""
