"""LoRA on chosen attention layers of any adapter's model: what methods that train have in common.

Below plugins, above core; knows no method. Import from the modules (nothing heavy is imported here)::

    from t2iprobe.training.dataset import Example, Pictures, read_folder
    from t2iprobe.training.lora import Lora
    from t2iprobe.training.targets import choose, count
    from t2iprobe.training.trainer import Settings, Trainer, Watch

    targets = choose(model.adapter, model.pipeline, "localized", layers=(6,), stream="both")
    print(count(model.adapter, model.pipeline, targets, rank=4))  # LoRA, adapted and text K/V parameters
    lora = Lora.attach(model, targets.modules, rank=4, init="gaussian", seed=0)
    trainer = Trainer(model, lora, Pictures(read_folder(folder), 512), Settings(steps=400, lr=1e-4))
    trainer.run(out, Watch(on_step=lambda step, loss: ...))  # resumes from out/checkpoint.pt
    lora.save(out / "lora")  # pipeline.load_lora_weights reads it
    lora.detach()  # the base model again, bit by bit

* ``targets``: which modules (scope x stream), and which count is which.
* ``lora``: :class:`~t2iprobe.training.lora.Lora` - ``state()`` / ``restore()`` (A and B, fp32), ``delta(path)`` (scale
  * B A), ``disabled()``, ``save``, ``detach``. Every init of peft by name. ``Lora.load`` draws as diffusers'
  ``load_lora_weights`` does, whatever kind of file; ``.learn()`` goes on with it.
* ``saved``: what ``Lora.load`` does: the one way a file comes onto a model; refuses another model's.
* ``dataset``: a folder of pictures with ``metadata.jsonl``; :class:`~t2iprobe.training.dataset.Example` also takes
  pictures from elsewhere and has a ``weight`` (prior preservation). ``Pictures`` crops, flips and deals them.
* ``feed``: rows as the denoiser gets them: latents and conditioning, remembered while they fit.
* ``objective``: the loss of a row by what the denoiser predicts (noise, velocity, flow, picture; learned variance).
* ``trainer``: the loop. ``Trainer(penalty=...)`` adds a regulariser to every step; ``trainer.advance()`` is one step.
  What step ``n`` sees follows from the seed and ``n``: not from the number of devices, nor from interruptions.
* ``devices``: accelerate, for mixed precision and several GPUs.

The base weights are never written to; a LoRA that is attached is the only thing that learns.
"""
