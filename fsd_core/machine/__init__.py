"""What this machine has, apart from runs: emulators of clouds, the software that fsd finds, and the suite that tests a provider."""
