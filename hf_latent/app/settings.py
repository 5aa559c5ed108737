"""What whoever starts the page decides, and its visitors do not."""

from dataclasses import dataclass

from hf_latent.checkpoints.names import packaged_checkpoints


@dataclass(frozen=True)
class AppSettings:
    """
    What the page offers.

    Args:
        models: checkpoints to list: folders, names on the Hub, packaged ones; the packaged ones if empty.
        trust_remote_code: run code that comes with the listed `models`.
        public: visitors are strangers. They choose among the listed checkpoints only and cannot turn on code that
            comes with one: whoever names a checkpoint and trusts its code runs any program on this machine.
    """

    models: tuple[str, ...] = ()
    trust_remote_code: bool = False
    public: bool = False

    @property
    def choices(self) -> list[str]:
        """The checkpoints of the list."""
        return list(self.models) or packaged_checkpoints(autoregressive=False)

    def check_choice(self, name: str, trust_remote_code: bool) -> bool:
        """
        Whether code that comes with the checkpoint `name` is run, for a visitor who asks for it or not.

        Raises:
            ValueError: for no name, or one that this visitor may not choose.
        """
        if not name:
            raise ValueError("`checkpoint` is empty: pick one of the list, or type a folder or a name on the Hub.")
        if not self.public:
            return trust_remote_code or (self.trust_remote_code and name in self.choices)
        if name not in self.choices:
            raise ValueError(f"`checkpoint` must be one of {', '.join(self.choices)} on this page, got {name!r}.")
        if trust_remote_code and not self.trust_remote_code:
            raise ValueError("`trust_remote_code` cannot be turned on by visitors of this page.")
        return self.trust_remote_code


__all__ = ["AppSettings"]
