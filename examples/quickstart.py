# %% [markdown]
# Two tasks, two task vectors, one model: task arithmetic by fine-tuning attention modules only.
# Runs on a CPU in about fifteen seconds, and downloads nothing.

# %%
import task_arithmetic as ta

clip = ta.load_encoder("embedded-small")  # a small CLIP that comes with the code
tasks = [ta.load_task(name, clip) for name in ("numbers", "shapes")]
print("pretrained:", ta.evaluate(clip, tasks))

# %% [markdown]
# Definition 1: a task vector is what fine-tuning moved, tau = theta_t - theta_0.

# %%
taus = [ta.finetune(task, mode="attention", steps=60, learning_rate=1e-3) for task in tasks]
print(taus[0])

# %% [markdown]
# Task addition: one model for both tasks. alpha is chosen on validation.

# %%
tau = ta.merge(taus)
alpha = ta.choose_alpha(clip, tau, tasks, taus)
unified = clip + alpha * tau
print(f"unified, alpha = {alpha}:", ta.evaluate(unified, tasks))

# %% [markdown]
# Task negation: forget the second task.

# %%
print("without shapes:", ta.evaluate(clip - taus[1], tasks))

# %% [markdown]
# Equation 2: how far do the two vectors disturb each other? Dark is far.

# %%
found = ta.disentanglement(clip, taus, tasks, points=9, samples=128)
found.plot().savefig("disentanglement.png")
print(f"largest change of predictions within the box: {found.classification[4:7, 4:7].max():.3f}")
