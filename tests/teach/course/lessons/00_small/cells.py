# %% numbers
x = torch.tensor([1.0, 2.0, 4.0])
print("sum", x.sum().item())
x


# %% average
def mean(values):
    return values.sum() / len(values)


average = mean(x)
difference = (average - x.mean()).abs().item()

# %% picture
made, axes = plt_figure("wide", 2.4, ncols=2, sharey=True)
axes[0].plot([0.5, 1.0, 1.5], x.tolist())
axes[1].bar(range(3), x.tolist())
axes[0].set_xlabel(t("place"))
axes[0].set_ylabel(t("value"))
made

# %% board
Table([t("value"), "1/3"], [[t("place"), 1 / 3], ["2017", 0.25], [50257, "0.5"]])

# %% drawing
Svg('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 30"><text y="20">x</text></svg>', t("alt_drawing"))

# %% exercise average
right = (2.0 + 3.0 + 7.0) / 3
mistakes = {"sum": 12.0, "middle": 3.0, "nothing": lambda answer: answer == 0}

# %% exercise words
right = t("place")
mistakes = {"value": t("value"), "empty": "?"}

# %% exercise truth
right = True
mistakes = {"contrary": False, "number": 1}

# %% exercise list
right = (1, 4, 16)
mistakes = {"doubled": [2, 4, 8], "unsquared": x}

# %% exercise rule
tolerance = 0.1


def right(answer):
    return answer % 7 == 0


mistakes = {"near": lambda answer: answer % 7 == 1, "six": 6}
