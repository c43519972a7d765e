"""What keys of other tools mean here: Hugging Face, PEFT, TRL, axolotl, Unsloth, LLaMA-Factory."""

from __future__ import annotations

from lora_s2s.errors import closest
from lora_s2s.recipe.schema import SECTIONS

# Our key → theirs. With `=value` where theirs is a switch for that value.
_THEIRS = {
    "model.name": "base_model model model_id model_name model_name_or_path model_path pretrained "
    "pretrained_model_name_or_path tokenizer_name",
    "model.revision": "model_revision",
    "model.dtype": "bnb_4bit_compute_dtype compute_dtype mixed_precision model_dtype precision "
    "torch_dtype",
    "model.dtype=float16": "fp16 half half_precision",
    "model.dtype=bfloat16": "bf16",
    "model.dtype=float32": "float32 fp32 tf32",
    "model.quantization": "bits quantization_bit quantization_config quantization_method",
    "model.quantization=nf4": "4bit bnb_4bit_quant_type load_in_4bit q_lora qlora use_4bit",
    "model.quantization=int8": "8bit load_in_8bit use_8bit",
    "model.skip_quantization": "llm_int8_skip_modules modules_to_not_convert",
    "data.train": "data data_files data_path dataset dataset_name dataset_path datasets train_data "
    "train_dataset train_file train_split training_file",
    "data.validation": "dev_file eval_data eval_dataset eval_file test_datasets val_data val_file "
    "valid_split validation_data validation_file",
    "data.test": "test_data test_dataset test_file",
    "data.format": "chat_template data_format dataset_type formatting",
    "data.source_column": "article_column context_column document_column input_column input_field "
    "instruction_column prompt_column question_column source source_field text_column",
    "data.target_column": "answer_column completion_column label_column output_column "
    "output_field response_column summary_column target target_field",
    "data.template": "formatting_func instruction_template prompt prompt_format prompt_template "
    "source_prefix",
    "data.max_source_tokens": "cutoff_len max_input_length max_length max_prompt_length "
    "max_seq_len max_seq_length max_sequence_length max_source_length model_max_length seq_length "
    "sequence_len source_max_len",
    "data.max_target_tokens": "max_completion_length max_label_length max_output_length "
    "max_target_length target_max_len",
    "data.truncate_source": "truncation truncation_side",
    "data.validation_fraction": "dev_fraction eval_split test_size val_set_size val_size "
    "validation_size validation_split_percentage",
    "data.source_language": "source_lang src_lang",
    "data.target_language": "forced_bos_token target_lang tgt_lang",
    "lora.r": "lora_r lora_rank rank",
    "lora.alpha": "lora_alpha scaling",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_modules lora_target lora_target_modules modules",
    "lora.target_modules=all-linear": "lora_target_linear target_linear",
    "lora.last_blocks": "layers_to_transform num_layer_trainable",
    "lora.method": "adapter adapter_type finetuning_type init_lora_weights peft_method peft_type",
    "lora.method=dora": "use_dora",
    "lora.method=rslora": "use_rslora",
    "lora.train_tokens": "additional_target lora_modules_to_save modules_to_save "
    "trainable_token_indices",
    "training.epochs": "max_epochs n_epochs num_epochs num_train_epochs train_epochs",
    "training.max_steps": "iters max_iters num_training_steps steps total_steps train_steps",
    "training.batch_size": "micro_batch_size per_device_batch_size per_device_train_batch_size "
    "per_gpu_train_batch_size train_batch_size",
    "training.tokens_per_batch": "max_tokens",
    "training.gradient_accumulation": "accumulate_grad_batches grad_accum grad_accumulation_steps "
    "gradient_accumulation_steps",
    "training.learning_rate": "lr max_lr peak_lr",
    "training.schedule": "lr_schedule lr_scheduler lr_scheduler_type scheduler scheduler_type",
    "training.warmup": "num_warmup_steps warmup_ratio warmup_steps",
    "training.weight_decay": "adam_weight_decay decay wd",
    "training.optimizer": "optim optimizer_type",
    "training.lora_plus_ratio": "loraplus_lr_ratio loraplus_ratio",
    "training.max_grad_norm": "clip_grad_norm grad_clip gradient_clip gradient_clip_val "
    "gradient_clipping",
    "training.label_smoothing": "label_smoothing_factor",
    "training.dropout": "dropout_rate",
    "training.packing": "multipack pack pack_sequences sample_packing",
    "training.gradient_checkpointing": "activation_checkpointing grad_checkpoint "
    "use_gradient_checkpointing",
    "training.sharding": "fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap sharding_strategy",
    "training.save_every": "checkpoint_every save_interval save_steps save_strategy "
    "saves_per_epoch",
    "training.keep_checkpoints": "save_total_limit",
    "training.evaluate_every": "eval_every eval_interval eval_steps eval_strategy "
    "evals_per_epoch evaluation_strategy val_check_interval",
    "training.ema": "ema_decay use_ema",
    "training.best_metric": "metric_for_best_model",
    "training.scored_sources": "predict_with_generate",
    "training.early_stopping": "early_stopping_patience patience",
    "training.seed": "data_seed random_seed random_state",
    "training.trackers": "log_with logger report_to",
    "training.trackers=[wandb]": "use_wandb wandb_project",
    "evaluation.metrics": "compute_metrics metric",
    "evaluation.max_new_tokens": "generation_max_length generation_max_new_tokens "
    "val_max_target_length",
    "evaluation.num_beams": "beams beam_size generation_num_beams",
    "evaluation.length_penalty": "generation_length_penalty len_penalty",
    "evaluation.no_repeat_ngram_size": "no_repeat_ngram no_repeat_ngrams",
    "evaluation.n_best": "num_return_sequences nbest",
    "evaluation.repetition_penalty": "repeat_penalty",
    "evaluation.temperature": "do_sample sampling sampling_temperature",
    "evaluation.top_p": "nucleus sampling_topp",
    "evaluation.batch_tokens": "eval_batch_size per_device_eval_batch_size",
    "evaluation.limit": "max_eval_samples max_samples",
    "output.dir": "logging_dir output_dir output_path save_dir",
    "output.name": "adapter_name experiment_name hub_model_id project_name run_name",
}
_OMITTED = {
    "a micro-batch that does not fit is split": "auto_find_batch_size",
    "attention and kernels are chosen by the model": "attn_implementation flash_attention "
    "flash_attn use_flash_attention xformers_attention",
    "bias terms are not trained": "bias lora_bias",
    "every step is logged": "logging_steps logging_strategy",
    "prepared data is found again by itself": "dataset_prepared_path lazy_preprocess "
    "overwrite_cache preprocessed_path",
    "report.html shows the curve": "plot_loss",
    "rows of similar length share a batch": "group_by_length length_column_name "
    "pad_to_max_length pad_to_sequence_len",
    "for several GPUs, `train --processes N`": "ddp_find_unused_parameters ddp_timeout deepspeed",
    "the best checkpoint by training.best_metric is kept": "load_best_model_at_end",
    "the metric of training.best_metric decides": "greater_is_better",
    "the command decides": "do_eval do_predict do_train overwrite_output_dir stage",
    "the data is read in one process": "dataloader_num_workers dataset_num_proc "
    "preprocessing_num_workers",
    "the loss counts every target token and no source token": "train_on_inputs",
    "the task is always text to text": "is_encoder_decoder model_type task task_type",
    "the tokenizer is the base's own": "tokenizer_type use_fast_tokenizer",
    "training goes on with `train --resume`": "auto_resume_from_checkpoints resume "
    "resume_from_checkpoint",
    "upload with `lora-s2s push`": "push_to_hub",
    "weights are stored as the base has them": "fan_in_fan_out lora_fan_in_fan_out",
}
_THEIR_SECTIONS = {
    "data": "data_args dataset dataset_args dataset_config datasets",
    "evaluation": "eval generate generation generation_config",
    "lora": "adapter lora_config peft peft_config",
    "model": "base base_model model_args model_config",
    "output": "outputs save",
    "training": "args optim optimizer train trainer training_args training_arguments",
}


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {name: ours for ours, names in table.items() for name in names.split()}


KEYS, OMITTED, THEIR_SECTIONS = map(_by_name, (_THEIRS, _OMITTED, _THEIR_SECTIONS))
_OFF = ("", "0", "false", "no", "none", "null", "off")


def key_hint(key: str, value: str = "", section: str | None = None) -> str:
    """What an unknown key means here, such as ``" (did you mean 'lora.r'?)"``; empty if unclear.

    Args:
        value: as written; a switch that is off needs no key here.
        section: where the key stands; None if in no section.
    """
    name = _in_our_style(key)
    if name in OMITTED:
        return f" (omit it: {OMITTED[name]})"
    meant = meant_key(key, section)
    if "=" in meant and value.lower() in _OFF:
        return f" (omit it, or set '{meant.partition('=')[0]}')"
    return f" (did you mean '{meant}'?)" if meant else ""


def meant_key(key: str, section: str | None = None) -> str:
    """The key that an unknown one means, such as ``lora.r``, or that with its value; empty if
    unclear.
    """
    name = _in_our_style(key)
    # Several sections have a name: it is that of the section where the key stands.
    sections = [section, *SECTIONS] if section else SECTIONS
    ours = [one for one in sections if name in SECTIONS[one].model_fields]
    if meant := f"{ours[0]}.{name}" if ours else KEYS.get(name):
        return meant
    keys = {
        field: f"{one}.{field}"
        for one in ([section] if section else reversed(SECTIONS))
        for field in SECTIONS[one].model_fields
    }
    close = closest(name, [*keys, *SECTIONS])
    return keys.get(close or "", "")


def _in_our_style(key: str) -> str:
    return key.lower().replace("-", "_")


def section_hint(name: str, key: str = "") -> str:
    """What an unknown section means here, or a key that was written below it; empty if unclear."""
    meant = THEIR_SECTIONS.get(_in_our_style(name))
    meant = meant or closest(name, [*SECTIONS, "extends"])
    of_key = key_hint(key, section=meant) if key and meant in SECTIONS else ""
    return of_key or (f" (did you mean '{meant}'?)" if meant else "")
