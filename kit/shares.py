"""The rows that are left at the end of an epoch, shared out over the processes so that none is trained twice."""

import math


def share_last_rows(trainer):
    """Let the processes share what is left for the last micro batches of an epoch; a step then is that of one process.

    accelerate fills the last micro batches up with rows of the first ones. What cannot be shared is told by process 0:
    fewer rows than processes, or for DPO, whose metrics TRL gathers pair by pair, other numbers of pairs in each.
    """
    args, rows = trainer.args, trainer.train_dataset
    if args.world_size == 1 or not hasattr(rows, "__len__"):
        return  # alone, or a stream
    size, count = args.per_device_train_batch_size, args.world_size
    left = len(rows) % (size * count)
    if left < count or (left % count and hasattr(trainer, "ref_model")):
        if left and _reached(args, len(rows)) and trainer.is_world_process_zero():
            print(f"{len(rows)} rows leave {left} for {count} processes: the last step of an epoch takes "
                  f"{size * count - left} rows twice, and differs from that of one process")
        return
    plain = trainer.get_train_dataloader

    def get_train_dataloader():
        loader = plain()
        split = loader.batch_sampler  # accelerate's, which gives each process every count-th batch of the inner one
        split.batch_sampler, split.batch_size = Shared(split.batch_sampler.sampler, size, count), None
        return loader

    trainer.get_train_dataloader = get_train_dataloader


class Shared:
    """Batches of `size` rows, as torch's BatchSampler makes them, and the last `count` of them of about as many."""

    def __init__(self, sampler, size, count):
        self.sampler, self.size, self.count = sampler, size, count

    def __len__(self):
        return self.count * math.ceil(len(self.sampler) / (self.size * self.count))

    def __iter__(self):
        rows = list(self.sampler)
        whole = len(rows) - len(rows) % (self.size * self.count)
        last = [whole + (len(rows) - whole) * k // self.count for k in range(self.count + 1)]
        ends = [*range(0, whole, self.size), *(last if last[-1] > whole else [whole])]
        yield from (rows[a:b] for a, b in zip(ends, ends[1:]))


def _reached(args, rows):
    """Whether the training comes to the last step of an epoch."""
    last = math.ceil(rows / args.world_size / args.per_device_train_batch_size / args.gradient_accumulation_steps)
    return args.max_steps >= last if args.max_steps > 0 else args.num_train_epochs >= 1
