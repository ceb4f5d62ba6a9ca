"""An emulator of Azure Service Bus: `codec` and `message` handle bytes, `store` handles queues, the other modules combine both. `claims`
lists the supported and the refused features.

It needs the standard library only. Start it as a command (`fsd_conformance.emulators.service_bus.__main__`) or with `server`.
"""
