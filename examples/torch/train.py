"""Handwritten digits: trains the network of nets.py and saves its weights."""

import torch
from nets import Digits
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
parts = train_test_split(images.astype("float32"), digits, random_state=0)
train, test, train_digits, test_digits = map(torch.from_numpy, parts)
model = Digits(width=32)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(100):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(train)["scores"], train_digits).backward()
    optimizer.step()

accuracy = (model(test)["label"] == test_digits).float().mean()
print(f"accuracy on unseen digits: {accuracy:.2f}")
save_file(model.state_dict(), "model.safetensors")
