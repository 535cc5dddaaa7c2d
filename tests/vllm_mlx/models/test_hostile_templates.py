"""Chat templates come with a model's files, from anybody: they run in Jinja's sandbox."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.vlm import random_vlm
from vllm_mlx.errors import ChatTemplateError, ModelLoadError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM

SECRET = "what the template is after"
CHAT = [{"role": "user", "content": "hi"}]
ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of a macro": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "by filter": "{{ messages|attr('__class__')|attr('__mro__') }}",
    "by format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "by map": "{{ [messages]|map(attribute='__class__')|list }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('%s').read() }}",
    "namespace": "{{ namespace.__init__.__globals__['__builtins__']['open']('%s').read() }}",
    "lipsum": "{{ lipsum.__globals__['os'].listdir('/') }}",
    "strftime": "{{ strftime_now.__globals__ }}",
    "open": "{{ open('%s').read() }}",
    "include": "{%% include '%s' %%}",
    "extends": "{%% extends '%s' %%}",
    "changes the messages": "{{ messages.append(1) }}",
    "changes a message": "{{ messages[0].update({'content': 'x'}) }}",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "file"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module", params=ESCAPES, ids=list(ESCAPES))
def template(request: pytest.FixtureRequest, secret: Path) -> str:
    written = ESCAPES[request.param]
    return written % secret if "%s" in written else written


def is_harmless(text: str) -> bool:
    """Jinja makes nothing of what its sandbox forbids, or raises."""
    return not any(word in text for word in (SECRET, "uid=", "<class", "builtins", "etc"))


def test_a_text_models_template_is_kept_in(language_model: MLXLanguageModel, template: str) -> None:
    tokenizer = language_model._core.loaded.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = template
    messages = [dict(message) for message in CHAT]
    try:
        said = tokenizer.decode(language_model._core.loaded._encode_chat(messages))
    except ChatTemplateError as error:
        said = str(error)
    finally:
        tokenizer.chat_template = kept

    assert is_harmless(said)
    assert messages == CHAT


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "config"])
def test_a_vision_folders_template_is_kept_in(
    vision_folder: Path, tmp_path: Path, file: str
) -> None:
    folder = Path(shutil.copytree(vision_folder, tmp_path / "model"))
    for old in folder.glob("chat_template*"):
        old.unlink()
    template = "{{ lipsum.__globals__['os'].mkdir('" + str(tmp_path / "sprung") + "') }}"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    if file == "config":
        settings["chat_template"] = template
    elif file.endswith("json"):
        (folder / file).write_text(json.dumps({"chat_template": template}))
    else:
        (folder / file).write_text(template)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    with pytest.raises((ChatTemplateError, ModelLoadError)), MLXMultimodalLM(str(folder)) as model:
        model.chat(CHAT, max_tokens=1)

    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_code_in_a_model_folder_is_not_run(tmp_path: Path, kind: str) -> None:
    folder = random_vlm(tmp_path / "model")
    sprung = tmp_path / "sprung"
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(sprung)!r})")
    named = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    named |= {"AutoProcessor": "evil.P", "AutoImageProcessor": "evil.I"}
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        settings = json.loads((folder / file).read_text()) | {"auto_map": named}
        if file == "config.json":
            settings["model_file"] = "evil.py"
        if kind == "text":
            settings.pop("vision_config", None)
        (folder / file).write_text(json.dumps(settings))

    with (
        pytest.raises(ModelLoadError, match=r"evil\.py.*trust_remote_code"),
        MLXLanguageModel(str(folder)),
    ):
        pass

    assert not sprung.exists()
