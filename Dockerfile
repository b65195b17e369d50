# The course in a container, for any user id:
#
#     docker build -t blocks2tokens .
#     docker run --rm -p 8888:8888 --user "$(id -u)" blocks2tokens
#
# The address that it prints, with its token, opens JupyterLab. To keep what you write: -v "$PWD/work:/course/work".
FROM python:3.12-slim
WORKDIR /course
COPY . .
RUN python start.py setup lab && .venv/bin/python data/fetch_smollm2.py && chmod -R a+rwX /course
# A user id without an entry in /etc/passwd has no home; the course's folder is one.
ENV HOME=/course
EXPOSE 8888
CMD ["python", "start.py", "lab", "--no-browser", "--ip=0.0.0.0"]
