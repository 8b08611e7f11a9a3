"""The stages and commands of the nightly batch job, one module each."""
