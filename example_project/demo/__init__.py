"""The demo: a real worker, a real Redis, four jobs, and a terminal that follows them.

``python -m example_project.demo --pool threads``
"""
