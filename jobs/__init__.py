"""The runnable stages of the nightly batch job, one module each."""
