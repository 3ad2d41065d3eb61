"""LoRA on selected attention layers of any adapter's model: what all training methods have in common.

Lies below the plugins and above core, and knows no method. Import from the modules (this one imports nothing heavy)::

    from t2iprobe.training.dataset import Pictures, read_folder
    from t2iprobe.training.lora import Lora
    from t2iprobe.training.targets import choose, count
    from t2iprobe.training.trainer import Settings, Trainer, TrainingCallbacks

    targets = choose(model.adapter, model.pipeline, "localized", layers=(6,), projections="both")
    print(count(model.adapter, model.pipeline, targets, rank=4))  # parameters: LoRA, adapted, text K/V
    lora = Lora.attach(model, targets.modules, rank=4, init="gaussian", seed=0)
    trainer = Trainer(model, lora, Pictures(read_folder(folder), 512), Settings(steps=400, lr=1e-4))
    trainer.run(out, TrainingCallbacks(on_step=lambda step, loss: ...))  # resumes from out/checkpoint.pt
    lora.save(out / "lora")  # pipeline.load_lora_weights reads it
    lora.detach()  # restores the base model bit by bit

* ``targets``: which modules to adapt (scope and projections), and their parameter counts.
* ``lora``: :class:`~t2iprobe.training.lora.Lora` with ``state()`` and ``restore()`` (A and B, float32), ``delta(path)``
  (scale times B A), ``disabled()``, ``save`` and ``detach``. Every initialisation of peft by name. ``Lora.load`` draws
  exactly as diffusers' ``load_lora_weights`` does, for every file format; ``learn()`` continues its training.
* ``saved``: the implementation of ``Lora.load``, the only way a file gets onto a model; refuses files of other models.
  ``peft_folder``: how LoRAs are kept where diffusers loads none.
* ``dataset``: a folder of pictures with ``metadata.jsonl``; :class:`~t2iprobe.training.dataset.Example` also takes
  pictures from elsewhere and has a ``weight`` (prior preservation). ``Pictures`` crops, flips and orders them.
* ``feed``: rows as the denoiser gets them: latents and conditioning, cached while they fit into memory.
* ``objective``: the loss per row, according to what the denoiser predicts (noise, velocity, flow, picture; learned
  variance).
* ``trainer``: the loop. ``Trainer(penalty=...)`` adds a regularizer to every step; ``trainer.advance()`` is one step.
  What step ``n`` sees depends only on the seed and ``n``, not on the number of devices or on interruptions.
* ``devices``: accelerate, for mixed precision and several GPUs.

The base weights are never written to; only the attached LoRA is trained.
"""
