"""A stand-in for Azure Service Bus: `codec` and `message` know bytes, `store` knows queues, the rest brings both together.
`claims` lists what it does and what it refuses.

Standard library alone; started as a command, see `fsd_conformance.emulators.service_bus.__main__`, or by `server`.
"""
